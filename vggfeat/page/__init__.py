"""Report pages: one self-contained HTML file each, with its plots as SVG and PNG files beside it."""
