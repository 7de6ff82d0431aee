//! One table row an event, for a terminal.
