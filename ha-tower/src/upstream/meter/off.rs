use ha_core::endpoint::EndpointKey;
use http::Response;

use crate::upstream::Error;

#[derive(Debug, Clone)]
pub(in crate::upstream) struct Meter;

#[derive(Debug)]
pub(in crate::upstream) struct Attempted;

#[derive(Debug)]
pub(in crate::upstream) struct Up;

impl Meter {
    pub(in crate::upstream) fn new(_: &str, _: &EndpointKey) -> Self {
        Self
    }

    pub(in crate::upstream) fn begin(&self) -> Attempted {
        Attempted
    }

    pub(in crate::upstream) fn connected(&self) -> Up {
        Up
    }

    pub(in crate::upstream) fn waits(&self) -> Up {
        Up
    }
}

impl Attempted {
    pub(in crate::upstream) fn ended<T>(&mut self, _: &Result<Response<T>, Error>) {}
}

pub(in crate::upstream) fn unavailable(_: &str) {}
