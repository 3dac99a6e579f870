//! What PostgreSQL is told, with and without Patroni.

/// A small server that survives kills and gives up on silent peers soon.
pub(crate) const SETTINGS: [(&str, &str); 14] = [
    // Files in the data directory instead of /dev/shm, where a killed server's would stay for ever.
    ("dynamic_shared_memory_type", "mmap"),
    ("fsync", "off"),
    ("hot_standby_feedback", "on"),
    ("log_line_prefix", "%m [%p] "),
    ("max_connections", "200"),
    ("max_replication_slots", "20"),
    ("max_wal_senders", "20"),
    ("shared_buffers", "32MB"),
    ("unix_socket_directories", ""),
    ("wal_keep_size", "256MB"),
    ("wal_log_hints", "on"),
    ("wal_receiver_status_interval", "1s"),
    ("wal_receiver_timeout", "5s"),
    ("wal_sender_timeout", "5s"),
];
