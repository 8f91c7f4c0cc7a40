"""The ground on which every room stands: what a client, a model and the gateway agree on.

- ``tensors``: what a tensor, a model and a step of an ensemble are;
- ``nvidia``: the tensors of TensorRT-LLM's own models (release 1.2), nothing of ours;
- ``parameters``: what a request may say of how its text is generated, in one table;
- ``chat_parameters``: the rows of that table that are a chat's; ``tool_choice``, one word of them;
- ``parameter``: what a row of that table is;
- ``models``: the tensors of Trireme's models: theirs, and what Trireme adds;
- ``ensemble``: how the three steps are chained;
- ``names``: the words that travel: models, finish reasons, priorities, request parameters;
- ``codes``: words that programs compare: finish reasons, and what kind of error it is;
- ``errors``: what can go wrong while a request is served;
- ``error_text``: an error's status, code and the input to blame, written into its text;
- ``settings_base``: typed settings and the errors that explain them;
- ``version``: Trireme's own.

It imports no other room, and no package but pydantic, yaml and numpy.
"""
