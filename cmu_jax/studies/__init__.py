"""Studies: experiments over many cells."""
