"""What clients and servers of Strongroom share: stubs, names and canonical encodings."""
