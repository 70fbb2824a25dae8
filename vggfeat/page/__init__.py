"""Report pages: one HTML file that needs nothing else, with its plots as SVG and PNG files beside it."""
