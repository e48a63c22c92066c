"""A web page for conversations with an agent; :mod:`graphrec.conversation.web.app` serves it.

The server is stateless: the browser holds the conversation's state and sends it with every answer.
"""
