//! The REST API as its clients see it, on both databases: the conventions that clients of Django REST framework rely on.

#![allow(clippy::unwrap_used, reason = "a failing unwrap in a test names its line")]

mod access;
mod actions;
mod connections;
mod documents;
mod history;
mod lists;
mod priorities;
mod pushes;
mod quarantine;
mod records;
mod removals;
mod schedules;
mod sources;
mod support;
