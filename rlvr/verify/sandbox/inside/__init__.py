"""The programs that run inside of the sandbox. They import each other and the standard library."""
