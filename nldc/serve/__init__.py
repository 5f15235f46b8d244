"""A decoder behind OpenAI's API: `app.create_app` makes the application, `run.run` runs it."""
