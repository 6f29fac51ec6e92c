"""The pages: plain HTML, CSS and JavaScript, served as they stand."""
