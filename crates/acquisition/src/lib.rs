//! matome-acquisition
