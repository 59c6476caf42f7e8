-- Dead letters: what a group gave up on. Queries of the runtime first, those of the views below them.

