"""HTML pages of tables and charts that are one file: no script, font or style from elsewhere."""
