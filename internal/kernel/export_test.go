package kernel

import "time"

// ExpireRoutes makes what is kept of routes as old as it may be.
func (k *Kernel) ExpireRoutes() {
	for _, kept := range k.kept {
		kept.at = time.Time{}
	}
}

// AwaitRoutes waits for the routes that are being listed beside snapshots.
func (k *Kernel) AwaitRoutes() { k.takeRefreshed(true) }

// NearChanges counts what may have changed routes that are near.
func (w *Watcher) NearChanges() uint64 { return w.nearChanges.Load() }
