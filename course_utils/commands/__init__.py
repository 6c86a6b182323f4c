"""What the `course` command and the make targets do, one file per command."""
