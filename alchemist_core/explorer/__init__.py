"""The explorer: pages in a browser on which people look at samples, subsets, nights and raters, and decide."""
