//! Ending service.

use crate::api::Event;
use crate::array::Array;
use crate::commands::Result;
use crate::executor::join_all;
use alloc::string::String;
use alloc::vec::Vec;
use uraid_core::config::Index;

impl Array {
    /// Ends service: what is journalled goes in place, cursors are saved. The caller has stopped
    /// giving requests and waited for those under way.
    pub async fn stop(&self) -> Result<String> {
        self.ending.set(true);
        self.close_down().await;
        self.event(Event::Stopped);
        Ok("stopped".into())
    }

    /// Puts what is journalled in place, closes the journals and saves cursors; work in the
    /// background ends. The caller has stopped giving requests and waited for those under way.
    pub async fn close_down(&self) {
        self.stopping.set(true);
        self.ex.fire(&self.changed);
        if !self.read_only && !self.is_suspended() && self.open.get() {
            let filling: Vec<Index> = self.rebuilds.borrow().keys().copied().collect();
            for index in filling {
                let stopped = || {
                    self.rebuilds
                        .borrow()
                        .get(&index)
                        .is_none_or(|p| !p.running)
                };
                self.ex.until(&self.changed, stopped).await;
                self.save_cursor(index).await;
            }
            self.until_scrub_rests().await;
            self.until_late_repairs_end().await;
            for lane in &self.lanes {
                while self.has_work(lane) && !self.is_suspended() {
                    self.checkpoint(lane).await;
                }
            }
            // What found no more work may still be writing the last of it down.
            for lane in &self.lanes {
                drop(lane.checkpoint_lock.lock(&self.ex).await);
            }
            join_all(self.lanes.iter().map(|lane| self.close_journal(lane))).await;
            self.save_counters().await;
            // A change of config that waited behind this is not cut short either.
            drop(self.config_lock.lock(&self.ex).await);
        }
        self.until_scrub_rests().await;
        self.until_hedges_end().await;
        self.settle_all_io().await;
    }
}
