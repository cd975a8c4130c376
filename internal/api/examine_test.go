package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/uplinkd/uplinkd/internal/status"
)

func found(context.Context) (status.Examination, error) {
	return status.Examination{Findings: []status.Finding{{Check: "rp-filter", Severity: "error", Cause: "it drops", Fix: "sysctl"}}}, nil
}

// Who asks costs the daemon one examination in ten seconds, however many ask; one that failed is tried again.
func TestExaminationsServeAllWhoAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, refused := 0, errors.New("no netlink")
		h := newServer(newDaemon(), func(o *Options) {
			o.Examine = func(ctx context.Context) (status.Examination, error) {
				made++
				time.Sleep(time.Second)
				e, _ := found(ctx)
				return e, refused
			}
		}).handler(false)
		if w := ask(h, http.MethodGet, "/api/v1/doctor"); w.Code != http.StatusInternalServerError {
			t.Errorf("a failure answers %d", w.Code)
		}
		refused = nil
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if w := ask(h, http.MethodGet, "/api/v1/doctor"); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), `"check":"rp-filter"`) {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			})
		}
		all.Wait()
		if made != 2 {
			t.Errorf("%d examinations", made)
		}
		time.Sleep(examinationAge)
		ask(h, http.MethodGet, "/api/v1/doctor")
		if made != 3 {
			t.Errorf("%d examinations after %v", made, examinationAge)
		}
	})
}
