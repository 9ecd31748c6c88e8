"""The demo's own data: about 300 benign instruction rows in mixed formats, written for this project."""
