"""The command line: parse, call one function, print. One file per verb; nothing heavy is imported before it is used."""
