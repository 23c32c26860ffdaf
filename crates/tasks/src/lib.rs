//! matome-tasks
