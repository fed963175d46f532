"""How an outcome or a certification is shown: stated as a `document`, laid out by `terminal` and by `page`."""
