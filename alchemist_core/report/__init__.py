"""The report page: plain values in, one self-contained HTML file out."""
