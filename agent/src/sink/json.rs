//! One JSON line an event, in the schema every line of the agent keeps.
