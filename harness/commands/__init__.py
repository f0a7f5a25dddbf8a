"""One module an area of the command line; light at import: heavy imports happen inside the commands."""
