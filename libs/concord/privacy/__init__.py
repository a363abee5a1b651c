"""Keys and what is made with them: record ids now, pseudonyms of studies later."""
