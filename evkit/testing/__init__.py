"""For users' tests and for ours: the real stack as pytest fixtures, event factories, and faults to inject.

plugin   fixtures: evkit_stack, evkit_database, evkit_system, evkit_topic, evkit_group
events   an_event, read_topic
waiting  until an answer is the wanted one
faults   TcpProxy between a client and a server; kill, pause and resume of processes
"""
