; A guest in 512 bytes. At boot it reads its heartbeat from the second disk and prints `LAST <n>` on the serial port; then, for ever:
; count up, write the heartbeat to sector 0 of the second disk and 32 KiB that change elsewhere on it, print `HB <n>`.
; It knows nothing of ACPI: a shutdown request is ignored.
;
; Build: nasm -f bin [-D PAIR] [-D TICKS=n] -o sector.bin sector.asm
;   PAIR   also writes the heartbeat to sector 1 of the first disk, before the second: at any one instant the first is equal or one ahead.
;   TICKS  time between two beats in 1/18 s, default 4
;
; The heartbeat sector holds the text `HEARTBEAT 00000012` and a line feed.

%ifndef TICKS
%define TICKS 4
%endif

bits 16
org 0x7c00

BEAT equ 0x8000                 ; the heartbeat sector
DIGITS equ BEAT + 10
BULK equ 0x1000                 ; segment of the 32 KiB that change

start:
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        cld

        mov si, from_second
        mov ax, 0x4200
        mov dl, 0x81
        int 0x13
        mov si, magic
        mov di, BEAT
        mov cx, 10
        repe cmpsb
        je .known
        mov di, BEAT            ; a fresh disk
        mov si, magic
        mov cx, 19
        rep movsb
        xor ax, ax
        mov cx, 512 - 19
        rep stosb
.known: mov si, last
        call print
        mov si, DIGITS
        call print_line

beat:   mov di, DIGITS + 7      ; count up, in decimal, from the right
.carry: inc byte [di]
        cmp byte [di], '9'
        jbe .counted
        mov byte [di], '0'
        dec di
        cmp di, DIGITS
        jae .carry
.counted:
%ifdef PAIR
        mov si, to_first
        mov ax, 0x4300
        mov dl, 0x80
        int 0x13
%endif
        mov si, from_second
        mov ax, 0x4300
        mov dl, 0x81
        int 0x13

        inc word [count]        ; 32 KiB of the counter's low byte, somewhere in the 32 MiB after sector 64
        mov ax, BULK
        mov es, ax
        xor di, di
        mov al, [DIGITS + 7]
        mov cx, 0x8000
        rep stosb
        xor ax, ax
        mov es, ax
        mov ax, [count]
        and ax, 1023
        mov cx, 64
        mul cx
        add ax, 64
        adc dx, 0
        mov [bulk_lba], ax
        mov [bulk_lba + 2], dx
        mov si, bulk
        mov ax, 0x4300
        mov dl, 0x81
        int 0x13

        mov si, hb
        call print
        mov si, DIGITS
        call print_line

        mov bx, [0x46c]         ; the BIOS counts ticks there
.wait:  hlt
        mov ax, [0x46c]
        sub ax, bx
        cmp ax, TICKS
        jb .wait
        jmp beat

; prints up to and including the line feed at the end of the digits, after a carriage return
print_line:
        mov cx, 8
.next:  lodsb
        call put
        loop .next
        mov al, 13
        call put
        mov al, 10
        jmp put

; prints a text that ends with 0
print:  lodsb
        test al, al
        jz .end
        call put
        jmp print
.end:   ret

put:    mov ah, al
        mov dx, 0x3fd
.busy:  in al, dx
        test al, 0x20
        jz .busy
        mov al, ah
        mov dx, 0x3f8
        out dx, al
        ret

magic:  db 'HEARTBEAT 00000000', 10
last:   db 'LAST ', 0
hb:     db 'HB ', 0
count:  dw 0

align 4
from_second:                    ; disk address packets: size, sectors, offset, segment, sector number
        db 16, 0
        dw 1, BEAT, 0
        dq 0
to_first:
        db 16, 0
        dw 1, BEAT, 0
        dq 1
bulk:   db 16, 0
        dw 64, 0, BULK
bulk_lba: dq 0

        times 510 - ($ - $$) db 0
        dw 0xaa55
