"""The methods of papers, a folder each."""
