"""Reports: results.json in; tables, figures and one page out."""
