//! Everything a mirror, a stolen key or a bad disk can do to a repository, by what is attacked. Which test
//! is for which attack stands in `docs/security.md`.

mod content;
mod metadata;
mod signed_by_mistake;
