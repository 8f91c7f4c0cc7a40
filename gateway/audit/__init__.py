"""The audit log: who asked what of which model, in a chain that shows what was changed or cut.

A folder holds a chain for each process that writes. A chain is a row of segments, files of JSON
lines. Each line ends with a MAC of itself and of the line before, so that nobody without the key
can change, insert, reorder or leave out a line. Of prompts and answers there are keyed digests,
never their text.
"""
