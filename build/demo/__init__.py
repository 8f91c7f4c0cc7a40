"""The demo checkpoint: a small Llama trained here, on data that this package writes itself.

`world` holds the tables, `data` the questions and answers, `score` the exam, `tokenizer` the
vocabulary and the chat template, `train` makes `checkpoint/` from them.
"""
