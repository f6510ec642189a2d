/*
 * Virtio devices, apart from how they are reached: status, features, queues, and what a device is to a transport.
 * Source: virtio 1.2, chapters 2 and 3.
 */
#ifndef TRAPEZE_DEVICE_VIRTIO_H
#define TRAPEZE_DEVICE_VIRTIO_H

#include "device/device.h"
#include "device/virtio/virtq.h"

#define VIRTIO_QUEUES_MAX 4u
#define VIRTIO_CONFIG_MAX 64u /* bytes of a device's configuration */

/* Device status */
#define VIRTIO_ACKNOWLEDGE 1u
#define VIRTIO_DRIVER      2u
#define VIRTIO_DRIVER_OK   4u
#define VIRTIO_FEATURES_OK 8u
#define VIRTIO_NEEDS_RESET 64u
#define VIRTIO_FAILED      128u

/* Feature bits that are not of one kind of device */
#define VIRTIO_F_INDIRECT    BIT(28)
#define VIRTIO_F_EVENT_INDEX BIT(29)
#define VIRTIO_F_VERSION_1   BIT(32)
#define VIRTIO_F_PLATFORM    BIT(33)
#define VIRTIO_F_PACKED      BIT(34)

#define VIRTIO_NO_VECTOR     0xffffu

struct virtio;

/* The parts of a queue, each with a register of its own. */
enum virtio_area { VIRTIO_AREA_DESC, VIRTIO_AREA_DRIVER, VIRTIO_AREA_DEVICE };

/* A kind of device. `self` is what its constructor gave to virtio_init. */
struct virtio_type {
    const char *name;
    u16 id;                        /* virtio 1.2, chapter 5 */
    u32 class_code;                /* of its PCI function */
    unsigned queues;               /* how many */
    unsigned config;               /* bytes of its configuration */
    const struct rec_desc *record; /* what it has beside the common state; NULL: nothing */
    /* The driver says that queue `n` has something. Only while the device is live. */
    void (*kick)(void *self, unsigned n);
    /* Whether requests are on their way: a reset waits for them, because they may still write to memory. NULL: never. */
    bool (*busy)(const void *self);
    /* The driver has reset the device, or the machine was reset. NULL: nothing to forget. */
    void (*reset)(void *self);
    /* The device's configuration, little-endian, `config` bytes. NULL without one. */
    void (*get_config)(const void *self, u8 *out);
    /* The driver writes bytes [at, at + len) of it, which are inside. NULL: it can not be written. */
    void (*set_config)(void *self, unsigned at, unsigned len, const u8 *data);
    /* Another number after each change of it; NULL: never more than one of its fields changes (2.5.1). */
    u8 (*generation)(const void *self);
    void (*destroy)(void *self);
};

/* How a transport tells the driver. */
struct virtio_transport {
    void (*queue)(void *ctx, unsigned vector); /* queue interrupt through `vector` */
    void (*config)(void *ctx);                 /* the configuration, or the status, has changed */
    bool (*may_dma)(void *ctx);                /* the function is bus master */
    void *ctx;
};

struct virtio {
    const struct virtio_type *type;
    void *self;
    struct guest_mem *mem;
    struct virtio_transport transport;
    unsigned slot; /* of the bus that the transport shall take; 0: the next that is free */
    u64 offered;
    u64 features; /* that the driver accepted */
    u8 status;
    u8 resetting; /* status 0 was written while requests were on their way */
    u8 stopping;  /* a bit a queue: the driver took it back while requests of it were on their way */
    u16 vector[VIRTIO_QUEUES_MAX];
    struct virtq queue[VIRTIO_QUEUES_MAX];
};

/* Begin a device that offers `features` beside those of the library. */
void virtio_init(struct virtio *v, const struct virtio_type *type, void *self, struct guest_mem *mem, u64 features);

/* --- for transports --- */

/* The status that the driver sees; it stays what it was while a reset waits for requests. */
u8 virtio_status(struct virtio *v);
void virtio_set_status(struct virtio *v, u8 status);
/* Features by words of 32 bits, as registers have them: offered, accepted. Words that are not there are 0, and stay so. */
u32 virtio_offered(const struct virtio *v, u32 word);
u32 virtio_accepted(const struct virtio *v, u32 word);
/* Ignored once FEATURES_OK stands. */
void virtio_accept(struct virtio *v, u32 word, u32 bits);
/* What a queue that is off is to be; ignored while it is on (4.1.5.1.3). A size that can not be leaves the old one. */
void virtio_set_queue_size(struct virtio *v, unsigned n, u64 size);
u64 virtio_queue_area(const struct virtio *v, unsigned n, enum virtio_area area);
void virtio_set_queue_area(struct virtio *v, unsigned n, enum virtio_area area, u64 at);
/* Enable queue `n` with what was set. */
void virtio_enable_queue(struct virtio *v, unsigned n);
/*
 * The driver takes queue `n` back: nothing more is taken from it, and it is off (virtio_queue_ready) when its requests have come
 * back. Its registers stay what they are.
 */
void virtio_disable_queue(struct virtio *v, unsigned n);
bool virtio_queue_ready(struct virtio *v, unsigned n);
/* The device's configuration; what lies behind its end reads as 0. `size`: 1 to 8. */
u64 virtio_config_read(const struct virtio *v, u64 offset, unsigned size);
void virtio_config_write(struct virtio *v, u64 offset, unsigned size, u64 value);
/* The driver notified queue `n`, or may have while it could not be served. */
void virtio_kick(struct virtio *v, unsigned n);
void virtio_kick_all(struct virtio *v);
/* The generation of the device's configuration. */
u8 virtio_generation(const struct virtio *v);
/* Power-up state: nothing is on its way any more. */
void virtio_reset(struct virtio *v);

/* --- for devices --- */

/* Whether queues may be served. */
bool virtio_live(const struct virtio *v);
/* Whether a request that comes back may still be given to the driver: it has not reset the device since. */
bool virtio_accepts(const struct virtio *v);
/* A chain from queue `n` as virtq_pop; a ring that makes no sense puts the device into NEEDS_RESET and gives 0. */
int virtio_pop(struct virtio *v, unsigned n, struct virtq_chain *c);
/* Interrupt for queue `n` if the driver wants it: once after a batch of virtq_push. */
void virtio_interrupt(struct virtio *v, unsigned n);
/* The device's configuration has changed by itself: tell the driver, if there is one. */
void virtio_config_changed(struct virtio *v);
/* The driver broke the rules: it has to reset the device. */
void virtio_needs_reset(struct virtio *v);
/* A request has come back: a reset that waited for it may be complete now. */
void virtio_idle(struct virtio *v);

/*
 * Records of a device on its transport, `instance`: that of the transport (`own`, of `transport`), VIRT, and the device's own
 * if it has one. -EBUSY while requests are on their way.
 */
int virtio_save(struct virtio *v, u16 instance, const struct rec_desc *own, const void *transport, struct rec_buf *out);
/* Offer a record of that instance: 1 if it is one of those (loaded or checked), 0 if of another kind, <0 refused. */
int virtio_load(struct virtio *v, const struct rec_desc *own, void *transport, const struct rec_view *view,
                bool check_only, struct error *e);

#endif
