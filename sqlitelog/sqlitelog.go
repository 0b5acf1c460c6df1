package sqlitelog

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"github.com/agenthypervisor/hypervisor/eventlog"
)

// A Store is an eventlog.Store in a directory that it holds alone. Open makes one. Safe for concurrent use.
//
// Locks are taken in this order: stepping, life, write, mu.
type Store struct {
	dir    string
	logger *slog.Logger
	wrap   func(driver.Connector) driver.Connector
	lock   *os.File

	stepping sync.Mutex // one Step at a time
	round    round      // owner: stepping with life held, or life held for writing

	// life is held for reading by whoever uses file, and for writing by whoever replaces it. It is not held while a caller's
	// code runs inside an iterator.
	life   sync.RWMutex
	file   *file
	closed bool

	write  sync.Mutex     // one writer at a time; guards file.w and what its comment names
	rows   []row          // of the group being appended
	newest map[string]int // of the group's streams, the newest row
	args   []any

	mu      sync.RWMutex
	table   *table  // changed with write held as well, so a writer reads it without mu
	last    int64   // id of the newest record; likewise
	synced  int64   // id up to which records survive a power cut; likewise
	indexed int64   // id up to which by_stream is complete; likewise
	pending []entry // records not yet in by_stream nor in round, by id; likewise
	broken  error   // why file must be opened again before it is used; likewise
	damaged error   // why it never will be; likewise
}

var _ eventlog.Store = (*Store)(nil)

// use lets the caller use s.file until it calls release, after opening it again if need be.
func (s *Store) use(ctx context.Context) (release func(), err error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.life.RLock()
		broken, err := s.state()
		if err == nil && !broken {
			return s.life.RUnlock, nil
		}
		s.life.RUnlock()
		if err != nil {
			return nil, err
		}
		if err := s.reopen(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
	}
}

// state returns whether the file must be opened again, or why it cannot be used. Called with life held.
func (s *Store) state() (broken bool, err error) {
	if s.closed {
		return false, eventlog.ErrClosed
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.broken != nil, s.damaged
}

// useToWrite is use, with the writer's place as well.
func (s *Store) useToWrite(ctx context.Context) (release func(), err error) {
	for {
		release, err := s.use(ctx)
		if err != nil {
			return nil, err
		}
		s.write.Lock()
		if s.broken == nil && s.damaged == nil {
			return func() { s.write.Unlock(); release() }, nil
		}
		s.write.Unlock() // the writer before us broke it
		release()
	}
}

// fail notes that the file must be opened again before anything in it is believed. Called with write held.
func (s *Store) fail(err error) {
	s.logger.Error("log is closed until its next use, which checks it", "dir", s.dir, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil {
		s.broken = err
	}
}

// damage notes that what is stored contradicts itself: the store is of no use until somebody has looked.
func (s *Store) damage(err error) {
	s.logger.Error("log is damaged", "dir", s.dir, "err", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged == nil {
		s.damaged = err
	}
}

// errOutcome is returned by tx when the commit may or may not have happened.
var errOutcome = errors.New("outcome of the commit is unknown")

// tx runs fn in a transaction. Any error means that nothing was written, unless it is errOutcome. Called with write held.
func (s *Store) tx(ctx context.Context, durable bool, fn func() error) error {
	f := s.file
	if err := f.sync(ctx, durable); err != nil {
		s.fail(err)
		return err
	}
	if _, err := f.begin.ExecContext(ctx); err != nil {
		s.undo(ctx, err)
		return fmt.Errorf("beginning transaction: %w", err)
	}
	if err := fn(); err != nil {
		s.undo(ctx, err)
		return err
	}
	_, err := f.commit.ExecContext(ctx)
	if err == nil {
		return nil
	}
	if diskFull(err) && s.undo(ctx, err) {
		return fmt.Errorf("committing: %w", err) // SQLite ran out of room before the frame that commits
	}
	s.fail(err)
	return fmt.Errorf("%w: committing: %w", errOutcome, err)
}

// undo rolls back and reports whether the log is seen to be as it was before. If it is not, or if err was more than a lack
// of room, the file is opened again before its next use; an open transaction that does not commit is then gone.
func (s *Store) undo(ctx context.Context, err error) bool {
	if !diskFull(err) {
		s.fail(err)
		return false
	}
	// The rollback may say that there is no transaction: SQLite ends one by itself on some errors. What counts is what is there.
	_, rolling := s.file.rollback.ExecContext(ctx)
	var last int64
	if err := s.file.w.QueryRowContext(ctx, selectLast).Scan(&last); err != nil {
		s.fail(fmt.Errorf("rolling back: %w", errors.Join(rolling, err)))
		return false
	}
	if last != s.last {
		s.fail(fmt.Errorf("rolling back: newest record is %d instead of %d", last, s.last))
		return false
	}
	if _, err := s.file.begin.ExecContext(ctx); err != nil { // refused inside a transaction
		s.fail(fmt.Errorf("rolling back: %w", errors.Join(rolling, err)))
		return false
	}
	if _, err := s.file.rollback.ExecContext(ctx); err != nil {
		s.fail(fmt.Errorf("rolling back: %w", err))
		return false
	}
	return true
}

// Close implements eventlog.Store: it finishes the index, makes everything durable and lets go of the directory. An iterator
// whose caller is at work ends with eventlog.ErrClosed. A second Close returns eventlog.ErrClosed.
func (s *Store) Close() error {
	ctx := context.Background()
	err := s.finish(ctx)
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return eventlog.ErrClosed
	}
	s.closed = true
	err = errors.Join(err, s.damaged, s.broken)
	if err == nil {
		err = s.file.checkpoint(ctx)
	}
	if diskFull(err) && s.damaged == nil && s.broken == nil {
		s.logger.Warn("closing log with the disk full: what is left is done at its next opening", "dir", s.dir, "err", err)
		err = s.syncWAL()
	}
	if err = errors.Join(err, s.file.close(), s.lock.Close()); err != nil {
		return fmt.Errorf("closing log in %s: %w", s.dir, err)
	}
	return nil
}
