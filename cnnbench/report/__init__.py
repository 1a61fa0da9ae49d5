"""Tables, figures, the HTML page, exports, and the listing of runs."""
