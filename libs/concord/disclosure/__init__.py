"""What a published table must not give away: profiles, suppression, an attack on the result."""
