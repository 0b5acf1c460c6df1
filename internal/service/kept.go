package service

import (
	"sync"
	"time"
)

// maxKept is of how many things it is remembered what a service said of them.
const maxKept = 10_000

// Kept is what a service said, for as long as that is good. The zero value is not ready: NewKept. Safe for concurrent use.
type Kept[Of comparable, Said any] struct {
	service *Service

	mu   sync.Mutex
	said map[Of]entry[Said]
}

type entry[Said any] struct {
	what  Said
	until time.Time
}

// NewKept returns what a service has said: nothing yet.
func NewKept[Of comparable, Said any](s *Service) *Kept[Of, Said] {
	return &Kept[Of, Said]{service: s, said: map[Of]entry[Said]{}}
}

// Said returns what the service said, and false where it is not known or no longer good.
func (k *Kept[Of, Said]) Said(of Of) (Said, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e, ok := k.said[of]
	if !ok || !k.service.opts.Now().Before(e.until) {
		var none Said
		return none, false
	}
	return e.what, true
}

// Keep remembers what the service said.
func (k *Kept[Of, Said]) Keep(of Of, what Said) { k.keep(of, what, k.service.opts.Keep) }

// KeepUntilRetry remembers what stands for an answer that failed, until a service that is left alone is asked again.
func (k *Kept[Of, Said]) KeepUntilRetry(of Of, what Said) {
	k.keep(of, what, min(BreakFor, k.service.opts.Keep))
}

// keep makes room first: when there is too much, what is no longer good goes, and then anything.
func (k *Kept[Of, Said]) keep(of Of, what Said, long time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.service.opts.Now()
	if _, known := k.said[of]; !known && len(k.said) >= maxKept {
		for other, e := range k.said {
			if !now.Before(e.until) {
				delete(k.said, other)
			}
		}
		for other := range k.said {
			if len(k.said) < maxKept {
				break
			}
			delete(k.said, other)
		}
	}
	k.said[of] = entry[Said]{what, now.Add(long)}
}
