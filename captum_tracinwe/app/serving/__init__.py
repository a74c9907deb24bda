"""`captum-tracinwe serve`: questions to an index over HTTP, each within limits, one after the other."""
