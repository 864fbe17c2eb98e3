//! What the log says since a backup.
