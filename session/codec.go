package session

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	"github.com/agenthypervisor/hypervisor/audit"
)

var errUnknownWord = errors.New("unknown word")

// readWord reads one of the words that a kind of things has, in their order.
func readWord[T ~uint8](to *T, words []string, text []byte) error {
	i := slices.Index(words, string(text))
	if i < 0 {
		return errUnknownWord
	}
	*to = T(i)
	return nil
}

// AppendEvents appends events as the JSON array of a record.
func AppendEvents(dst []byte, events []Event) []byte {
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = e.Append(dst)
	}
	return append(dst, ']')
}

// ParseEvents reads the events of a record. It returns audit.ErrEvent for a type or a member it does not know.
func ParseEvents(b []byte) ([]Event, error) { return readers.Parse(b) }

func reader[E Event]() func([]byte) (Event, error) {
	return audit.Reader(func(e E) Event { return e })
}

func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// readers has one entry for every event, under its published name.
var readers = sagaReaders(audit.Readers[Event]{
	sagaCreatedType:      reader[SagaCreated](),
	sagaStepStartedType:  reader[SagaStepStarted](),
	sagaStepRetriedType:  reader[SagaStepRetried](),
	sagaStepHeldType:     reader[SagaStepHeld](),
	sagaStepGivenUpType:  reader[SagaStepGivenUp](),
	sagaCheckpointType:   reader[SagaCheckpointSaved](),
	sagaFanoutStartType:  reader[SagaFanoutStarted](),
	sagaFanoutEndType:    reader[SagaFanoutResolved](),
	sagaCompensatingType: reader[SagaCompensating](),
	sagaWaitingType:      reader[SagaWaiting](),
	handoffType:          reader[SagaHandedOff](),
	sagaInvalidatedType:  reader[SagaInvalidated](),

	createdType:       reader[Created](),
	joinedType:        reader[Joined](),
	presentedType:     reader[ManifestPresented](),
	historyType:       reader[HistoryVerified](),
	leftType:          reader[Left](),
	activatedType:     reader[Activated](),
	terminatedType:    reader[Terminated](),
	cancellingType:    reader[Cancelling](),
	archivedType:      reader[SessionArchived](),
	epochType:         reader[EpochOpened](),
	strongType:        reader[ConsistencyForced](),
	keyUsedType:       reader[KeyUsed](),
	assignedType:      reader[RingAssigned](),
	demotedType:       reader[RingDemoted](),
	incidentType:      reader[IncidentRaised](),
	attributedType:    reader[FaultAttributed](),
	driftType:         reader[BehaviorDrift](),
	breachType:        reader[BreachDetected](),
	liftedType:        reader[DemotionLifted](),
	elevatedType:      reader[RingElevated](),
	loweredType:       reader[ElevationExpired](),
	admittedType:      reader[Admitted](),
	startedType:       reader[Started](),
	deniedType:        reader[Denied](),
	rateLimitedType:   reader[RateLimited](),
	completedType:     reader[Completed](),
	failedType:        reader[Failed](),
	unknownType:       reader[Unknown](),
	undoneType:        reader[Undone](),
	resolvedType:      reader[Resolved](),
	agentKilledType:   reader[AgentKilled](),
	sessionKilledType: reader[SessionKilled](),
	killLiftedType:    reader[KillLifted](),
	openedType:        reader[ApprovalOpened](),
	votedType:         reader[ApprovalVoted](),
	grantedType:       reader[ApprovalGranted](),
	approvalDenied:    reader[ApprovalDenied](),
	expiredType:       reader[ApprovalExpired](),

	cleanType: reader[CleanSession](),
	toldType:  reader[EntriesTold](),

	requestedType:     reader[VouchRequested](),
	vouchedType:       reader[Vouched](),
	vouchRefusedType:  reader[VouchRefused](),
	vouchEndedType:    reader[VouchEnded](),
	vouchReleasedType: reader[VouchReleased](),
	slashedType:       reader[SlashExecuted](),
	forfeitedType:     reader[BondForfeited](),
	askedType:         reader[WitnessAsked](),
})
