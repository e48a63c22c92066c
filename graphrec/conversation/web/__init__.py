"""A web page on which a person and an agent converse; :mod:`graphrec.conversation.web.app` serves it.

The server keeps nothing of a conversation: the browser holds its state and sends it along with every answer.
"""
