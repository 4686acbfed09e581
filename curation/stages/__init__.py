"""The stages that recipes share: each a function from rows to rows."""
