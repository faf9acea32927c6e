//! A guard around a decoder that panics on damaged input.
//!
//! The `parquet` crate (60.1) still asserts on some flipped bits, for one in its definition
//! levels. A user's file must not do that to us: the panic becomes an error, and what Rust would
//! print about it is kept back, on this thread and for this call only. It needs unwinding, so
//! no profile may say `panic = "abort"`.

use parquet::errors::ParquetError;
use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `decode` gives, or the message of its panic. What `decode` borrows mutably must not be
/// used after a panic.
fn catch_panic<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    static FORWARD: Once = Once::new();
    FORWARD.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                print(info);
            }
        }));
    });
    let before = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(decode));
    QUIET.set(before);
    result.map_err(message)
}

/// A step of the parquet reader, its panics turned into errors. What `step` borrows mutably must
/// not be used after one.
pub fn guard_parquet<T>(step: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_panic(step).unwrap_or_else(|panic| Err(ParquetError::General(panic)))
}

fn message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "unknown".into(), |m| (*m).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message_and_the_next_call_works() {
        let n = 3;
        assert_eq!(catch_panic::<()>(|| panic!("{n} is wrong")), Err("3 is wrong".into()));
        assert_eq!(catch_panic::<()>(|| panic!("wrong")), Err("wrong".into()));
        assert_eq!(catch_panic(|| n), Ok(3));
    }
}
