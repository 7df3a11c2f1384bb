"""The HTTP server side of every service: the app, the edge that bounds requests, problem documents."""
