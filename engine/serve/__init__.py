"""A model behind HTTP, with the interface of OpenAI's API, and a page to talk to it."""
