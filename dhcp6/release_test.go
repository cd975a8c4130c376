package dhcp6

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
)

// ipv6.md 1.15.
func TestOnlyReleaseReleases(t *testing.T) {
	t.Run("the end of the context does not", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.kinds()
			b.clear()
			b.stop()
			sleep(time.Minute)
			b.wantKinds("")
			b.wantHeard()
		})
	})
	t.Run("first the prefix is out of use, then the server hears", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.clear()
			b.kinds()
			b.mu.Lock()
			b.listener = func(ch Change) {
				b.wire.mu.Lock()
				defer b.wire.mu.Unlock()
				if len(b.wire.sent) != 0 {
					t.Errorf("%s was told after the server", ch.Reason)
				}
			}
			b.mu.Unlock()
			if err := b.Release(t.Context()); err != nil {
				t.Error(err)
			}
			b.wantHeard("returned 2001:db8:a::/56 released (nothing left)")
			msgs := b.messages()
			if len(msgs) != 1 || msgs[0].msg.MessageType != dhcpv6.MessageTypeRelease || included(msgs[0].msg, 1) != "2001:db8:a::/56" {
				t.Errorf("sent %v", msgs)
			}
			if err := <-b.done; err != nil {
				t.Error(err)
			}
			b.done <- nil
		})
	})
	t.Run("four times when nobody answers", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.messages()
			b.script(nil)
			began := time.Now()
			if err := b.Release(t.Context()); err != nil {
				t.Error(err)
			}
			if msgs := b.messages(); len(msgs) != 4 {
				t.Errorf("%d Releases, want 4", len(msgs))
			}
			if took := time.Since(began); took < 12*time.Second || took > 19*time.Second {
				t.Errorf("it took %v, want about 1+2+4+8 s", took)
			}
		})
	})
	t.Run("without a link, and when it is over already", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.SetLink(2, false)
			synctest.Wait()
			b.kinds()
			if err := errors.Join(b.Release(t.Context()), b.Release(t.Context())); err != nil {
				t.Error(err)
			}
			b.wantKinds("")
		})
	})
	t.Run("no longer than the link is there", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.script(nil)
			began := time.Now()
			time.AfterFunc(2*time.Second, func() { b.SetLink(2, false) })
			if err := b.Release(t.Context()); err != nil || time.Since(began) != 2*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	})
	t.Run("not after the end of the context", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.script(nil)
			b.kinds()
			time.AfterFunc(2*time.Second, b.stop)
			if err := b.Release(t.Context()); !errors.Is(err, ErrEnded) {
				t.Errorf("%v, want ErrEnded: the server has not answered", err)
			}
			if err := b.Release(t.Context()); !errors.Is(err, ErrEnded) {
				t.Errorf("%v, want ErrEnded", err)
			}
		})
	})
	t.Run("with a context that ends", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			b := start(t, generous(1000, 2000), nil)
			sleep(3 * time.Second)
			b.script(nil)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := b.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
	})
}
