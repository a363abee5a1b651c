"""`make real`: what becomes of deliveries that nobody here wrote, pseudopeople's population."""
