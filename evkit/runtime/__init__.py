"""The way of an event, in five stages, each a module whose first line says from where to where.

    outbox        the caller's transaction → outbox table
    relay         outbox table → topic
    consumer      topic → handler, with inbox (handle once), retry (try again) and schemas (old version → new)
    dead_letters  failure → dead letter, and back through the failing group's handler
    replay        a stretch of topic → one group's handler, on purpose

Everything here speaks records and leaves rows that the views read later; nothing here knows a dataframe.
"""
