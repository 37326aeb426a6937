"""Pictures and tables from run directories; reads files only."""
