//! matome-api
