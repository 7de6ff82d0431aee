//! x
use crate::{
    cli::{Doctor, Host},
    failure::Failure,
};
/// x
pub async fn doctor(_: &Host, _: &Doctor) -> Result<(), Failure> {
    Ok(())
}
