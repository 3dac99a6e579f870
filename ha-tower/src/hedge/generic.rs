use super::policy::{Classify, Copies, Policy, Split};

/// Hedges any request that can be cloned and that a matcher calls safe to repeat.
///
/// A balancer inside can only go elsewhere when its [`Protocol`](crate::balance::Protocol) finds a [`Tried`](crate::tried::Tried) in
/// the request that all clones share.
#[derive(Clone, Copy, Debug)]
pub struct Generic<M, C = OkIsSuccess> {
    repeatable: M,
    classify: C,
}

impl<M> Generic<M> {
    /// Hedges the requests of which `repeatable` says that two executions do what one does. `Ok` is a success.
    pub const fn when<Request>(repeatable: M) -> Self
    where
        M: Fn(&Request) -> bool,
    {
        Self {
            repeatable,
            classify: OkIsSuccess,
        }
    }
}

impl<M, C> Generic<M, C> {
    /// Says which outcomes win, in place of `Ok`.
    pub fn success<Response, Error, F>(self, is_success: F) -> Generic<M, Judge<F>>
    where
        F: Fn(Result<&Response, &Error>) -> bool,
    {
        Generic {
            repeatable: self.repeatable,
            classify: Judge(is_success),
        }
    }
}

/// `Ok` wins and `Err` does not.
#[derive(Clone, Copy, Debug)]
pub struct OkIsSuccess;

/// A function that says what wins.
#[derive(Clone, Copy, Debug)]
pub struct Judge<F>(F);

/// A request of which clones are sent.
#[derive(Clone, Debug)]
pub struct Cloned<Request>(Request);

impl<Request, M, C> Policy<Request> for Generic<M, C>
where
    Request: Clone,
    M: Fn(&Request) -> bool,
{
    type Inner = Request;
    type Template = Cloned<Request>;

    fn split(&self, request: Request) -> Split<Request, Cloned<Request>> {
        let repeatable = (self.repeatable)(&request);
        Split {
            template: repeatable.then(|| Cloned(request.clone())),
            first: request,
            delay: None,
            deadline: None,
        }
    }
}

impl<Request: Clone> Copies<Request> for Cloned<Request> {
    fn copy(&self, _: u32) -> Option<Request> {
        Some(self.0.clone())
    }
}

impl<M, Response, Error> Classify<Response, Error> for Generic<M, OkIsSuccess> {
    fn is_success(&self, result: Result<&Response, &Error>) -> bool {
        result.is_ok()
    }
}

impl<M, F, Response, Error> Classify<Response, Error> for Generic<M, Judge<F>>
where
    F: Fn(Result<&Response, &Error>) -> bool,
{
    fn is_success(&self, result: Result<&Response, &Error>) -> bool {
        (self.classify.0)(result)
    }
}
